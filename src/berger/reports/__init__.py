"""Show what tables say: one self-contained HTML file.

::

    folder ─► parts (corpus, runs) ─► sections (sentences, figures, tables) ─► report.html

Every sentence about a result is worked out from the numbers in the folder, never fixed text.

- `report`: from a folder to the file.
- `folders`: what is in a folder, an unfinished run too.
- `blocks`, `style`: what a report is made of, and how its figures look.
- `corpus_groups`: subjects, montages and sites of a corpus.
- `corpus_section`, `pretraining_section`, `decoding_section`, `evaluation_section`: what is said;
  the figures beside. `learning` and `sleep`: the parts of an evaluation about learning curves and
  about hypnograms.
- `training`: the part of a pretraining or an adaptation about how it was trained.
- `methods`: the paragraph for a paper, and the exact configuration.
"""

from berger.reports.report import build_report

__all__ = ["build_report"]
