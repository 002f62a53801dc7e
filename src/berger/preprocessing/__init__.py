"""Make recordings comparable and remember what was done.

::

    Recording ─► channels ─► filter ─► resample ─► bad channels ─► reference ─► cut ─► stretches
                 (chosen,    (one zero-phase       (kept out, or   (or bipolar  (ends)   (Prepared)
                  broken      FIR kernel)           interpolated)   pairs)
                  ones out)

The ends are cut after filtering, so that the filter's edge effects lie in what is cut. Pieces
between gaps, and between values that are not finite, are filtered and resampled each by itself.
Filter and resampling are linear and the same for all channels, so that bad channels can be looked
for in what a model will see and the reference taken afterwards.

- `config`: the configuration.
- `admission`: what is refused from the outset; the channels chosen.
- `filtering`: mains, filter, resampling.
- `bad_channels`: broken and deviating channels, kept out or interpolated.
- `reference`: average, named electrodes, bipolar pairs.
- `stretches`: what can be used; time that annotations mark as bad cannot.
- `pipeline`: all of it.
"""

from berger.preprocessing.config import BIPOLAR_SETS, PreprocessingConfig
from berger.preprocessing.pipeline import Prepared, preprocess
from berger.recordings import RejectedError

__all__ = ["BIPOLAR_SETS", "Prepared", "PreprocessingConfig", "RejectedError", "preprocess"]
