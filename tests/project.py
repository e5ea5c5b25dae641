"What the tests know of the project: its files, its notebooks, and which notebook makes which module."
import configparser, json, re, subprocess
from pathlib import Path

root = Path(__file__).resolve().parents[1]
settings = configparser.ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
package = root/settings['lib_path']


def files():
    "Every file that is the project's: tracked, or new and not ignored; relative to the root."
    out = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
                         cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted({Path(name) for name in out.split('\0') if name and (root/name).exists()})


def notebooks():
    "Every notebook, as {path: content}."
    return {path: json.loads(path.read_text(encoding='utf-8')) for path in sorted((root/'nbs').glob('*.ipynb'))}


def code_cells(notebook):
    "The source and the outputs of every code cell."
    return [(''.join(c['source']), c['outputs']) for c in notebook['cells'] if c['cell_type'] == 'code']


def module_of(notebook):
    "The module that a notebook exports to, or None."
    found = [m[1] for source, _ in code_cells(notebook) if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', source, re.M))]
    return found[0] if found else None


def floors():
    "{module: number of its notebook}."
    return {module: int(path.name[:2]) for path, nb in notebooks().items() if (module := module_of(nb))}


def modules():
    "The modules that the package holds."
    return sorted(path.stem for path in package.glob('*.py') if not path.name.startswith('_'))
