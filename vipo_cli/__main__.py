"""`python -m vipo_cli`, the form that `accelerate launch -m` needs."""

from vipo_cli.cli import main

if __name__ == "__main__":
    main()
