"""The paper, one folder a question: ``separation``, ``methods``, ``effects``, ``languages``, and ``across`` models.

Read ``experiment`` and the list ``experiments``, ``study`` (one model in a run) and ``verdicts`` (claims), ``steered``
(what steering experiments share), then a question's folder. ``pipeline`` runs everything into a ``folder``; ``report``
shows it with ``figures`` (in one ``style``) and ``guidelines`` (C12); ``lab`` and ``notebook`` serve notebooks.
"""

from emotrace.errors import require

require("study")
