"""What became of a text: ``classifiers`` (with their ``encoder``), ``regimes``, then ``calibration``, which finds
the strengths at which texts stay coherent."""
