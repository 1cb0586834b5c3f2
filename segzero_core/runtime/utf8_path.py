# SPDX-License-Identifier: Apache-2.0
"""Folders for libraries that take only paths in UTF-8, as safetensors and tokenizers do."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path


def utf8_path(folder: Path) -> Path:
    """Return a path in UTF-8 to an existing folder.

    That is ``folder`` itself if it is UTF-8. If not, it is a symbolic link in a temporary folder,
    which is removed when the process ends. The link has the folder's name, with ``?`` for what
    is not UTF-8.

    Raises:
        OSError: No link can be made.
    """
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        links = Path(tempfile.mkdtemp(prefix='segzero-'))
        atexit.register(shutil.rmtree, links, ignore_errors=True)
        link = links / folder.absolute().name.encode(errors='replace').decode()
        link.symlink_to(folder.absolute(), target_is_directory=True)
        return link
    return folder
