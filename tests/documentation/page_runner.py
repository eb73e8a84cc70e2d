"""Runs pages' code in one process, so that torch and the like are imported once.

    python -m tests.documentation.page_runner RESULTS PAGE ...

Each page has its own namespace, and a folder that begins as a copy of the working directory.
RESULTS becomes a JSON object: page -> what went wrong, an empty text where nothing did.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.documentation.pages import PREPARATIONS, ROOT, Around, Preparation, blocks_of, smaller

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands_in(shell: str) -> Iterator[list[str]]:
    """The arguments of each ``labelstore`` command of a block of shell code."""
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for start, word in enumerate(words):
            if word != "labelstore":
                continue
            # As a command of its own, or as a module: not as a package that pip installs.
            if start == 0 or words[start - 1] in ("&&", "-m", "srun") or "srun" in words[:start]:
                end = words.index("&&", start) if "&&" in words[start:] else len(words)
                yield words[start + 1 : end]
                break


class Page:
    """One page's run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.preparation = PREPARATIONS.get(name, Preparation())
        self.printed = io.StringIO()
        self.names: dict[str, Any] = {
            "__name__": "__main__",
            "run_command": self.run_command,
            "said": self.said,
        }

    def said(self) -> str:
        """What was printed since it was last asked for."""
        text = self.printed.getvalue()
        self.printed.seek(0)
        self.printed.truncate()
        return text

    def run_command(self, command: str | list[str]) -> None:
        """Run a ``labelstore`` command; an error unless its exit code is 0."""
        from labelstore.cli.main import main

        arguments = shlex.split(command) if isinstance(command, str) else command
        code = main.main(arguments, "labelstore", standalone_mode=False)
        if code:
            raise RuntimeError(f"labelstore {shlex.join(arguments)} gave {code}:\n{self.said()}")

    def run(self) -> None:
        """All blocks in order."""
        self.execute(self.preparation.before, "before the first block")
        unused = set(self.preparation.around)
        for number, block in enumerate(blocks_of(ROOT / self.name), 1):
            is_command = block.language == "sh" and self.preparation.runs_commands
            if block.language != "python" and not is_command:
                continue
            code, where = smaller(block.code), f"block {number}"
            known = [line for line in self.preparation.around if line in code]
            if len(known) > 1:
                raise LookupError(f"{where} is prepared more than once: {known}")
            unused -= set(known)
            around = self.preparation.around[known[0]] if known else Around()
            self.execute(around.before, f"before {where}")
            self.said()
            if is_command:
                for arguments in commands_in(code):
                    self.run_command(arguments)
                self.names["printed"] = self.said()
            elif block.title:
                Path(block.title).write_text(code)
            else:
                self.names["this_block"] = code
                self.execute(code, where)
            self.execute(around.after, f"after {where}")
        if unused:
            raise LookupError(f"no block has {sorted(unused)}")

    def execute(self, code: str, where: str) -> None:
        """Run Python in the page's namespace."""
        exec(compile(code, f"{self.name}, {where}", "exec"), self.names)


def main(results: str, pages: list[str]) -> None:
    """Run pages one after another and write down how each went."""
    import torch

    # What ``datasets`` reads when a page imports it.
    os.environ["HF_HOME"] = str(Path(results).parent)
    # Networks as small as these are faster so.
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    place = Path.cwd()
    outcomes = {}
    for page in pages:
        folder = place.with_name("run") / page.replace("/", "_")
        run = Page(page)
        if run.preparation.is_alone:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(place, folder)
        os.chdir(folder)
        with contextlib.redirect_stdout(run.printed), contextlib.redirect_stderr(run.printed):
            try:
                run.run()
                outcomes[page] = ""
            except (Exception, SystemExit):
                outcomes[page] = traceback.format_exc() + run.said()[-3000:]
        # Files of the same name on another page are other modules.
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
        Path(results).write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
