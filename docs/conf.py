"""Sphinx configuration."""

import math

import attrs
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

import trioanytls
from trioanytls._public import DEFINED_IN

# autodoc reads the comments of fields in the module that `__module__` names: here, the one that defines the class.
for public, defined in DEFINED_IN.items():
    getattr(trioanytls, public.rpartition(".")[2]).__module__ = defined

project = "trioanytls"
author = "the trioanytls contributors"
copyright = "2026, the trioanytls contributors"
version = release = trioanytls.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_design",
]
# No intersphinx: it would fetch other projects' indexes, but the build must work without a network.

# A `name` in a docstring is rendered as code.
default_role = "code"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# Show defaults as written (`Config()`, `math.inf`), not as they print.
autodoc_preserve_defaults = True
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["tables.css"]
html_title = f"trioanytls {release}"

# Render `Attributes:` as a list of fields, so that autodoc does not describe the same attributes twice.
SECTIONS = Config(napoleon_use_ivar=True)


def render_sections(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn `Raises:` and `Attributes:` into fields.

    The napoleon extension does this as well, but treats the text before a colon in an attribute's description as the
    attribute's type.
    """
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, SECTIONS, app, what, name, obj, options).lines()


def show_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show the defaults of a settings class. attrs stores them where autodoc does not find them."""
    if not (isinstance(obj, type) and attrs.has(obj)):
        return signature, returns
    fields = attrs.fields(obj)
    if any(field.default is attrs.NOTHING for field in fields):
        return signature, returns
    values = ("math.inf" if field.default == math.inf else repr(field.default) for field in fields)
    return f"(*, {', '.join(f'{field.name}={value}' for field, value in zip(fields, values, strict=True))})", None


def setup(app: Sphinx) -> None:
    """Connect the functions above to autodoc."""
    app.connect("autodoc-process-docstring", render_sections)
    app.connect("autodoc-process-signature", show_defaults)
