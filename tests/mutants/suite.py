"""Which modules are changed, and which tests must notice. Tests that start processes of their own are left out."""

from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True)
class Group:
    """Modules, and the tests that are run against their mutants: a mutant meets those that call its function."""

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]

    def covers(self, path: str) -> bool:
        """Whether a path of the checkout is one of the modules, which may hold ``*``."""
        return any(fnmatch(path, module) for module in self.modules)


def _tests(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/test_{folder}_{name}.py" for name in names)


def _cases(module: str, *names: str) -> tuple[str, ...]:
    """Single tests of a module of the engine whose others start processes."""
    return tuple(f"tests/engine/test_engine_{module}.py::test_{name}" for name in names)


SUITE = (
    Group(
        "data",
        ("data/classes.py", "data/sampler.py", "data/transforms.py", "data/readers/*.py"),
        (
            *_tests(
                "data",
                "classes",
                "sampler",
                "transforms",
                "readers",
                "whole",
                "recipe",
                "loader",
                "mnist",
                "parquet",
                "shards",
                "archives",
                "sources",
                "pixels",
            ),
            "tests/data/test_data_scale.py::test_the_order_of_an_epoch_is_a_permutation_and_quick",
            "tests/data/test_data_scale.py::test_the_order_is_fixed_for_all_time",
            "tests/data/test_data_scale.py::test_repeated_augmentation",
        ),
    ),
    Group(
        "engine",
        tuple(f"engine/{name}.py" for name in ("records", "logs", "checkpoint", "optim", "meter", "evaluate")),
        (
            *_tests(
                "engine", "checkpoint", "saving", "records", "logs", "meter", "optim", "rates", "examine", "counting"
            ),
            *_cases("step", "a_batch_that_is_not_finite_leaves_no_trace"),
            *_cases("evaluate", "one_process_counts_every_size", "mode_of_the_model_is_given_back"),
            *_cases("evaluate", "nothing_is_kept_for_gradients", "fewer_than_five_classes"),
            *_cases("finetune", "the_head_has_a_rate_of_its_own"),
            *_cases("pretrained", "evaluation_and_prediction_by_name"),
            *_cases(
                "reports",
                "tensorboard_has_the_hyper_parameters",
                "the_decay_begins_after_the_warm_up_where_that_is_asked",
            ),
            *_cases("waits", "only_optimisers_that_leave_no_trace_are_asked_to_skip", "on_a_gpu_they_are_the_default"),
        ),
    ),
    Group(
        "trainer",
        ("engine/trainer.py", "engine/run.py", "engine/journal.py", "engine/reader.py"),
        (
            *_tests("engine", "trainer", "goes_on"),
            *_cases("waits", "steps_are_read_in_order_one_behind", "no_step_follows_the_one_that_is_one_too_many"),
        ),
    ),
)
