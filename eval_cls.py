"""Evaluate a classifier: python eval_cls.py --config FILE --checkpoint FILE [section.key=value ...].

Every image counts once, for any number of ranks under torchrun. The last line of the output is JSON, with the accuracy
of each class. ``--predictions FILE.csv`` writes what the model said of each image, ``--confusion FILE.png`` draws which
classes it takes for which.
"""

import json
import sys

from engine import cli, signals


def main() -> None:
    signals.watch()
    arguments = cli.parse("Evaluate a classifier and print a JSON line.", checkpoint=True)
    from engine.answers import check_outputs, writing
    from engine.config import load_config
    from engine.evaluate import examine

    config = load_config(arguments.config, arguments.overrides, world_size=1)  # nothing is trained: any number of ranks
    check_outputs(arguments.predictions, arguments.confusion, config.eval.labels)
    found = examine(config, arguments.checkpoint)
    if found is None:
        return
    result, answers = found
    print(json.dumps(result.to_json()), flush=True)  # noqa: T201  first, so that a disk that refuses costs no figure
    if arguments.predictions:
        with writing(arguments.predictions):
            answers.write(arguments.predictions)
    if arguments.confusion:
        from tools.pictures.confusion import draw_confusion

        with writing(arguments.confusion):
            draw_confusion(arguments.confusion, answers.confusion(), answers.classes)


if __name__ == "__main__":
    sys.exit(cli.run(main))
