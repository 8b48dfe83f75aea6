"""Many records under one key, measured from outside: peers, clients and a rival, each in processes of their own."""
