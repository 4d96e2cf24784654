"""The command line of both references: the same options, with defaults of their own."""

import argparse

# Name and default; a default of None is a path that some commands need.
SHARED = {"side": 32, "batch": 128, "classes": 100, "learning-rate": 0.01, "weights": None, "state": None,
          "batches": None, "data": None, "per-class": 1000, "epochs": 10, "seed": 0}


def run(document, commands, variants, options, prepare):
    """Calls the function that the command line names, after `prepare`; both get the parsed arguments."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=commands)
    parser.add_argument("--variant", choices=variants, default="r1")
    for name, default in {**options, **SHARED}.items():
        parser.add_argument(f"--{name}", type=str if default is None else type(default), default=default)
    arguments = parser.parse_args()
    prepare(arguments)
    commands[arguments.what](arguments)
