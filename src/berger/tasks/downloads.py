"""Where a data set can be fetched: what its YAML file says under ``facts.download``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from berger.configuration import Config
from berger.tasks.labels import with_group


class _Download(Config):
    """What all have.

    Attributes
    ----------
    files : tuple of str
        Patterns of the files that the task needs, by their path there; ``*`` stands for any
        characters, ``/`` included.
    subject : str, optional
        Regular expression with a group ``subject``, searched in that path: whose a file is.
        Everybody needs the files in which it is not found.
    then : str
        What is left to be done by hand.
    """

    files: tuple[str, ...] = Field(min_length=1)
    subject: str | None = None
    then: str = ""

    @field_validator("subject")
    @classmethod
    def _has_a_subject(cls, pattern: str | None) -> str | None:
        return pattern and with_group(pattern, "subject")


class PhysioNet(_Download):
    """A project of PhysioNet, whose ``SHA256SUMS.txt`` lists its files.

    Attributes
    ----------
    name, version : str
        As in ``https://physionet.org/content/NAME/VERSION/``.
    """

    origin: Literal["physionet"] = Field(alias="from")
    name: str
    version: str

    @property
    def address(self) -> str:
        """Of the folder."""
        return f"https://physionet.org/files/{self.name}/{self.version}"


class OpenNeuro(_Download):
    """A data set of OpenNeuro, by its bucket; that holds the newest version alone.

    Attributes
    ----------
    name : str
        As "ds006366".
    version : str
        Which one the facts are of; another is told.
    """

    origin: Literal["openneuro"] = Field(alias="from")
    name: str = Field(pattern=r"^ds\d{6}$")
    version: str

    @property
    def address(self) -> str:
        """Of the bucket."""
        return "https://s3.amazonaws.com/openneuro.org"


class Osf(_Download):
    """A project of the Open Science Framework.

    Attributes
    ----------
    node : str
        As in ``https://osf.io/NODE/``.
    folder : str
        Pattern of the name of that folder of the project which is the data set.
    """

    origin: Literal["osf"] = Field(alias="from")
    node: str
    folder: str

    @property
    def address(self) -> str:
        """Of its storage."""
        return f"https://api.osf.io/v2/nodes/{self.node}/files/osfstorage/"


class Files(_Download):
    """Files on a web server that has no list of them: `files` are their names, no patterns.

    Attributes
    ----------
    url : str
        Of the folder that they are in.
    """

    origin: Literal["files"] = Field(alias="from")
    url: str = Field(pattern="^https://")

    @property
    def address(self) -> str:
        """Of the folder."""
        return self.url.rstrip("/")


class ByHand(Config):
    """Free, but nothing that Berger can fetch.

    Attributes
    ----------
    how : str
        What to do, as the end of a sentence.
    """

    origin: Literal["by hand"] = Field(alias="from")
    how: str


Fetchable = PhysioNet | OpenNeuro | Osf | Files
Download = Annotated[Fetchable | ByHand, Field(discriminator="origin")]
