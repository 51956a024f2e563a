"""The templates of pages. What is put into them is escaped."""

import jinja2

from memgen.base import wording


def template(name: str) -> jinja2.Template:
    """A template of `report/templates`; a value that it needs and is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memgen.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["wording"] = wording
    return environment.get_template(name)
