"""Hooks of mkdocs: the pages of the documentation that are made from the code, and a check that no page fetches anything.

A page of docs says where: <!-- generated: cli --> or <!-- generated: recipes -->. The pages Contributing, Security and
Changelog are the files of those names in the repository's root.
"""

import io
import os
import re
import textwrap
from contextlib import redirect_stdout, suppress
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
WIDTH = 86
"""Characters of a line of --help that a page shows without scrolling."""
ROOT_FILES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FETCHED = re.compile(
    r"""<(?:script|img|iframe|link(?=[^>]*rel="?stylesheet))[^>]*(?:src|href)="?(?:https?:)?//[^>]*>"""
)
"""What a browser loads by itself; links that a reader follows are none of it."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository's root as pages."""
    for name in ROOT_FILES:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        for other in ROOT_FILES:
            text = text.replace(f"]({other})", f"]({other.lower()})")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated."""
    for name, content in (("cli", command_line), ("recipes", recipes)):
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, content())
    return markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that a browser would complete from the network."""
    found = FETCHED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found.group()}")
    return output


def command_line() -> str:
    """Return a section per verb with its --help."""
    from viscera.cli.command import VERBS

    os.environ["COLUMNS"] = str(WIDTH)
    return "\n\n".join(f"## viscera {verb}\n\n```text\n{help_of(verb)}\n```" for verb in VERBS)


def help_of(verb: str) -> str:
    """Return what `viscera VERB --help` prints; of train, with the settings of the recipe that we recommend."""
    from viscera.cli.command import main

    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        main([verb, *(["viscera2d-16"] if verb == "train" else []), "--help"])
    lines = (line.rstrip() for line in said.getvalue().strip().splitlines())
    return "\n".join(line if len(line) <= WIDTH else textwrap.fill(line, WIDTH) for line in lines)


def recipes() -> str:
    """Return the table of recipes."""
    from viscera.recipes.catalogue import RECIPES

    rows = "\n".join(
        f"| `{name}` | {recipe.about} | `{recipe.space.name}`, {len(recipe.space.organs)} | {recipe.training.epochs} |"
        for name, recipe in RECIPES.items()
    )
    return f"| recipe | what | label space, organs | epochs |\n|---|---|---|---|\n{rows}"


class Examples(griffe.Extension):
    """Show the doctests of a docstring's section Example as code: the parser knows only Examples."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
