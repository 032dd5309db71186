"""What test_engine_evaluate.py starts under torchrun: rank 0 prints the counts for the sizes 1 to 64."""

import json

from test_engine_evaluate import counted

from engine.distributed import join_world

world = join_world("cpu", 60.0)
counts = [counted(size, world) for size in range(1, 65)]
if world.is_main:
    print(json.dumps(counts))
world.close()
