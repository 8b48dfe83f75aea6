"""`python -m p2pkv`: the command line."""

from p2pkv.commands import main

if __name__ == "__main__":
    main()
