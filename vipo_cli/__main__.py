"""`python -m vipo_cli`, the form that `accelerate launch -m` needs."""

from vipo_cli.cli import main
from vipo_cli.training.launch import reporting

if __name__ == "__main__":
    with reporting():
        main()
