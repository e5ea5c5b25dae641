"The stand-ins of warm.py are the commands: what they print, how they end, what they leave; and how a command ends at all."
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest
import warm
from cfg_repro.checkpoints import last_checkpoint

pytestmark = pytest.mark.slow
real = Path(sys.executable).parent
environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | {'COLUMNS': '80', 'OMP_NUM_THREADS': '1'}


def ended(*words, cwd):
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('words', ['cfg_sweep --help', 'cfg_train digits --lr -1', 'cfg_digits --fast', 'python -c print(3);exit(5)'])
def test_the_same_words(tmp_path, words):
    name, *words = words.split()
    found = ended(warm.bin()/name, *words, cwd=tmp_path)
    assert found == ended(real/name, *words, cwd=tmp_path) and ''.join(found[1:])


def test_the_same_run(tmp_path):
    "To the last bit of its weights."
    def weights(place, out):
        code, said, _ = ended(place/'cfg_train', 'digits', '--steps', 2, '--device', 'cpu', '--out', out, cwd=tmp_path)
        assert code == 0 and said.startswith(f'{out}: 2 steps of 128 images')
        return (last_checkpoint(tmp_path/out)/'net.safetensors').read_bytes()
    assert weights(warm.bin(), 'a') == weights(real, 'b')


@pytest.mark.parametrize('end, code, said', [('', 0, ''), ('sys.exit(3)', 3, ''), ('sys.exit("no")', 1, 'no\n'), ('1/0', 1, 'ZeroDivisionError'),
                                             ('os.kill(os.getpid(), 9)', -9, ''), ('sys.exit(None)', 0, '')])
def test_a_script_ends_as_it_ends(tmp_path, end, code, said):
    "With its own directory to import from, its words, its streams and its environment."
    (tmp_path/'lib').mkdir()
    (tmp_path/'lib/beside.py').write_text('words = "beside"')
    (tmp_path/'lib/script.py').write_text(f'import os, sys, beside\nprint(beside.words, sys.argv, input(), os.environ["COLUMNS"], __name__, flush=True)\n{end}')
    done = subprocess.run([str(warm.bin()/'python'), 'lib/script.py', '--w', '1 2'], cwd=tmp_path, env=environment, input='in', capture_output=True, text=True)
    assert done.stdout == "beside ['lib/script.py', '--w', '1 2'] in 80 __main__\n"
    assert done.returncode == code and said in done.stderr and bool(said) == bool(done.stderr)


SLEEPS = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(3600)\n"


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_does_not_outlive_its_stand_in(tmp_path, number):
    (tmp_path/'script.py').write_text(SLEEPS)
    with subprocess.Popen([str(warm.bin()/'python'), 'script.py'], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        pid = int(running.stdout.readline())
        os.kill(pid, 0)
        running.send_signal(number)
        assert running.wait(120) == -number
        while alive(pid): time.sleep(0.05)


def alive(pid):
    state = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and state[0] != 'Z'


TEA = """
import atexit, sys, threading, time
from cfg_repro.console import command

class Late:
    def __del__(self): print('taken down', flush=True)

def cfg_tea():
    "Make tea."
    atexit.register(print, 'the last duty')
    threading.Thread(target=lambda: (time.sleep(0.5), print('a thread'))).start()
    print('well')

late, sys.argv = Late(), ['cfg_tea']
command(cfg_tea).console()
"""


def test_a_command_leaves_when_all_is_done(tmp_path):
    "Its threads and what was registered for the end; but what Python takes down after that it does not wait for."
    (tmp_path/'tea.py').write_text(TEA)
    assert ended(sys.executable, 'tea.py', cwd=tmp_path) == (0, 'well\na thread\nthe last duty\n', '')
    (tmp_path/'plain.py').write_text('from cfg_repro.console import command\ndef cfg_tea(): print("well")\ncommand(cfg_tea).console()')
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, 'plain.py'], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith('cfg_tea: ') and 'No space left' in done.stderr and done.stderr.count('\n') == 1
