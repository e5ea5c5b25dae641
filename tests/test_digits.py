"The main job from a terminal: it runs, it stops and goes on, it refuses what makes no sense."
import csv, json, os, signal, struct, subprocess, sys, time
from pathlib import Path
import pytest
import warm
from cfg_repro.files import write_record

command = [str(Path(sys.executable).parent/'cfg_digits')]  # where pip put it
environment = os.environ | {'COLUMNS': '80'}


def cfg_digits(*arguments, cwd):
    return subprocess.run([str(warm.bin()/'cfg_digits'), *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)


def held(folder):
    "What a directory holds, but for locks: {path: bytes}."
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file() and p.name != '.lock'}


@pytest.fixture(scope='module')
def quick(tmp_path_factory):
    "One whole quick run: its directory and what it printed."
    folder = tmp_path_factory.mktemp('quick')
    done = cfg_digits('--quick', cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder/'runs/digits-quick', done.stdout


@pytest.mark.slow
def test_quick_run(quick):
    "Tables beside the paper's in 80 columns; CSV, figures and provenance that agree with one another."
    out, text = quick
    assert 'Table 1' in text and 'Table 2' in text and 'Classifier guidance' in text
    tables = text.split('\n\np_uncond')[0].split('\nyes')[0].split('\n NO')[0]
    assert max(map(len, tables.splitlines())) <= 80
    rows = list(csv.DictReader((out/'cells.csv').open()))
    about = json.loads((out/'provenance.json').read_text())
    s = about['settings']
    assert len(rows) == len(s['p_uncond'])*len(s['w']) + len(s['T_sweep_w'])*(len(s['T_sweep'])-1) + len(s['classifier_w'])
    assert {float(r['fd']) > 0 and 1 <= float(r['is_mean']) <= 10 and 0 <= float(r['precision']) <= 1 for r in rows} == {True}
    assert about['versions']['torch'] and about['floor'] > 0 and 'cfg_digits' not in about['versions']
    for name in ('curves_p_uncond', 'curves_T', 'w', 'guidance', 'samples'):
        png = (out/f'{name}.png').read_bytes()
        assert png[:8] == b'\x89PNG\r\n\x1a\n' and struct.unpack('>II', png[16:24])[0] > 900


@pytest.mark.slow
def test_finished_work_is_not_done_again(quick):
    "The same line over a finished run trains and samples nothing, and prints the same tables."
    out, text = quick
    before = {path: os.stat(out/path).st_mtime_ns for path in held(out) if path.startswith('parts/') and not path.endswith('sweep.json')}
    again = cfg_digits('--quick', cwd=out.parents[1])
    assert again.returncode == 0
    assert again.stdout.splitlines()[:-1] == text.splitlines()[:-1]
    assert before == {path: os.stat(out/path).st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_started_again(quick, tmp_path, sign):
    "Whatever stops it, and however: the same line ends with the rows of the run that was not stopped."
    out, _ = quick
    running = subprocess.Popen([*command, '--quick'], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(1200):  # stop it once there is a checkpoint, or the first cells
        time.sleep(0.1)
        wanted = 'parts/cells/*.json' if sign == signal.SIGTERM else 'parts/runs/*/step-*'
        if list((tmp_path/'runs/digits-quick').glob(wanted)) or running.poll() is not None: break
    assert running.poll() is None, 'it was over before it could be stopped'
    (os.killpg if sign == signal.SIGKILL else os.kill)(running.pid, sign)
    said = running.communicate(timeout=60)[1]
    if sign != signal.SIGKILL:
        assert running.returncode == 130 and said.splitlines()[-1] == 'cfg_digits: stopped; the same line goes on from here'
        assert 'Traceback' not in said
    again = cfg_digits('--quick', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path/'runs/digits-quick/cells.csv').read_bytes() == (out/'cells.csv').read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize('arguments, said', [
    (['--seeds', '0'], 'seeds is 0'), (['--seeds', '-3'], 'seeds is -3'), (['--seeds', 'many'], "'many' is not a whole number"),
    (['--workers', '0'], 'workers is 0'), (['--device', 'tpu'], 'device is tpu'), (['--out', 'a_file'], 'a_file'),
    (['--out', 'other', '--quick'], 'holds a sweep with version None, not 1'), (['--fast'], 'there is no --fast')], ids=lambda v: '_'.join(v) if isinstance(v, list) else '')
def test_bad_input(tmp_path, arguments, said):
    "One sentence, exit 2, and every file as it was."
    (tmp_path/'a_file').write_text('mine')
    (tmp_path/'other/parts').mkdir(parents=True)
    write_record(tmp_path/'other/parts/sweep.json', dict(seeds=9))
    before = held(tmp_path)
    done = cfg_digits(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr
    assert 'Traceback' not in done.stderr and done.stdout == '' and held(tmp_path) == before


LONG = """
import sys, time
from pathlib import Path
import cfg_repro.digits as digits

def train_network(job, out, s, device):
    (Path(out)/job.name).touch()
    time.sleep(3600)

digits.train_network, digits.own_classifier = train_network, lambda *args: None
if __name__ == '__main__':
    sys.argv[0] = 'cfg_digits'
    digits.cfg_digits.console()
"""


@pytest.mark.slow
@pytest.mark.parametrize('everybody', [False, True], ids=['one', 'all'])
def test_a_stop_waits_for_nothing(tmp_path, everybody):
    "Work that takes an hour is dropped, nothing more is begun and no process is left: sent to the first process, or, as a terminal does, to all."
    (tmp_path/'long.py').write_text(LONG)
    def restored(): signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen([sys.executable, 'long.py', '--workers', '2', '--out', 'out'], cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
                               text=True, preexec_fn=restored, start_new_session=True)
    while len(begun := sorted(tmp_path.glob('out/digits-p*'))) < 2 and running.poll() is None: time.sleep(0.05)
    (os.killpg if everybody else os.kill)(running.pid, signal.SIGINT)
    try: said = running.communicate(timeout=300)[1]
    finally:
        if running.poll() is None: os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130 and said.splitlines()[-1] == 'cfg_digits: stopped; the same line goes on from here' and 'Traceback' not in said
    assert len(begun) == 2 and sorted(tmp_path.glob('out/digits-p*')) == begun
    left = subprocess.run(['ps', '-s', str(running.pid), '-o', 'stat=,args='], capture_output=True, text=True).stdout
    assert 'spawn_main' not in left, left
