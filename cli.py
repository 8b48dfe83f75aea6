from p2pkv.commands import main

main()
