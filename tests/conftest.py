"The order of the files: what takes minutes comes first, so that at the end no process waits for the other."
import signal
from pathlib import Path

# What runs behind a shell ignores Ctrl-C, and hands that on to what it starts: the tests of Ctrl-C would wait for ever
signal.signal(signal.SIGINT, signal.default_int_handler)

# By what they took, side by side on two cores. xdist would begin with the files that have most tests.
LONG = ['newcomer', 'commands', 'digits', 'training', 'gpu', 'static', 'benchmarks', 'on_its_way', 'crashes', 'roads', 'auto']
assert all((Path(__file__).parent/f'test_{name}.py').exists() for name in LONG)


def pytest_configure(config):
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    rank = {f'test_{name}.py': i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))
