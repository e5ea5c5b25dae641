"""Commands that start at once, for tests of what a command does and not of how it starts.

Most of a short command is Python importing torch. Here one process has imported it, and whatever else commands
import, and forks for every line; `bin()` is a directory with a stand-in for each command, and for the `python` of a
script. A stand-in hands its words, its environment, its directory and its three streams to the fork, and ends as
that ends. What reads its environment where it is imported, as the compiler does, is to be started itself. The
commands themselves start in test_wheel and test_newcomer, and wherever a signal meets them;
test_warm holds both kinds to each other.
"""
import atexit, importlib, json, os, runpy, select, shutil, signal, socket, subprocess, sys, tempfile, threading, traceback
from functools import lru_cache
from pathlib import Path

here = Path(__file__).resolve()
ALSO = ('accelerate', 'matplotlib.pyplot', 'scipy.stats', 'sklearn.datasets', 'torch._dynamo', 'torch_fidelity',
        'torchvision.datasets', 'torchvision.utils')


def entries():
    "Every command of the package: {name: 'module:function.console'}."
    import project
    return dict(line.split('=') for line in project.settings['console_scripts'].split())


STAND_IN = """#!{python} -IS
import os, sys
sys.path.insert(0, {folder!r})
import warm
warm.ask({place!r}, {real!r}, sys.argv)
"""


@lru_cache
def bin():
    "A directory with the stand-ins; it and the process behind them last as long as this process."
    folder = Path(tempfile.mkdtemp())
    place, real = str(folder/'socket'), Path(sys.executable).parent
    for name in ('python', *entries()):
        text = STAND_IN.format(python=sys.executable, folder=str(here.parent), place=place, real=str(real/name))
        (folder/name).write_text(text, encoding='utf-8')
        (folder/name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | dict(OMP_NUM_THREADS='1')
    server = subprocess.Popen([sys.executable, str(here), place], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b'warm\n', 'it did not start'
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)             # the end of its stdin is its end
    return folder


# A stand-in: it imports nothing that takes long

def ask(place, real, argv):
    "Have a line run, and end as it ends; what is no file of Python's is run as if there were no stand-in."
    if Path(real).name == 'python' and not ''.join(argv[1:2]).endswith('.py'):
        os.execv(real, [real, *argv[1:]])
    line = socket.socket(socket.AF_UNIX)
    line.connect(place)
    socket.send_fds(line, [b'.'], [0, 1, 2])
    line.sendall(json.dumps(dict(argv=argv, cwd=os.getcwd(), environment=dict(os.environ))).encode() + b'\n')
    said = line.makefile()
    pid = int(said.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    code = int(said.readline())
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# The process behind them

def serve(place):
    "Import, and fork for everyone who asks."
    for name in (*{entry.split(':')[0] for entry in entries().values()}, *ALSO):
        importlib.import_module(name)
    assert threading.active_count() == 1            # a fork takes one thread along
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    os.write(1, b'warm\n')
    signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C at pytest ends pytest, and then the stdin of this process
    keepers = set()
    while listener in select.select([listener, 0], [], [])[0]:
        line, _ = listener.accept()
        keepers.add(keeper := os.fork())
        if keeper == 0:
            listener.close()
            keep(line)
        line.close()
        keepers = {pid for pid in keepers if os.waitpid(pid, os.WNOHANG) == (0, 0)}


def keep(line):
    "Fork once more, and tell who asked how the fork ends; where nobody is there to be told any more, it ends."
    _, streams, *_ = socket.recv_fds(line, 1, 3)
    how = json.loads(line.makefile('rb').readline())
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in (line.detach(), woken, wake):
            os.close(fd)
        become(streams, **how)
    line.sendall(b'%d\n' % pid)
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if line in select.select([line, woken], [], [])[0]:
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        os.read(woken, 100)
    line.sendall(b'%d\n' % os.waitstatus_to_exitcode(ended[1]))
    os._exit(0)


def become(streams, argv, cwd, environment):
    "Be the command, from its first line to its last."
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, python = Path(argv[0]).name, Path(argv[0]).name == 'python'
    sys.argv = argv[1:] if python else argv
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    if python:
        sys.executable = str(Path(argv[0]).absolute())
    code = 1
    try:
        if python:
            runpy.run_path(sys.argv[0], run_name='__main__')
        else:
            module, function = entries()[name].split(':')
            getattr(importlib.import_module(module), function.split('.')[0]).console()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
        if code and not isinstance(e.code, int):
            print(e.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == '__main__':
    serve(sys.argv[1])
