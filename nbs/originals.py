"Run by Quarto after a render: the notebooks themselves, beside the pages that were made of them."
import os
from nbdev.config import get_config
from cfg_repro.pages import originals

config = get_config()
originals(config.nbs_path, os.environ['QUARTO_PROJECT_OUTPUT_DIR'], config.git_url)
