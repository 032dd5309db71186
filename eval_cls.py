"""Evaluate a classifier: python eval_cls.py --config FILE --checkpoint FILE [section.key=value ...].

Every image counts once, for any number of ranks under torchrun. The last line of the output is JSON.
"""

import json
import sys

from engine import cli, signals


def main() -> None:
    signals.watch()
    arguments = cli.parse("Evaluate a classifier and print a JSON line.", checkpoint=True)
    from engine.config import load_config
    from engine.evaluate import evaluate_checkpoint

    result = evaluate_checkpoint(load_config(arguments.config, arguments.overrides), arguments.checkpoint)
    if result is not None:
        print(json.dumps(result.to_json()))  # noqa: T201


if __name__ == "__main__":
    sys.exit(cli.run(main))
