"""One prompt, shown. ``compare`` (plain and steered side by side) and ``token_reading`` (emotions token by token;
whole texts: ``text_reading``) come first, then ``results``, which hold both; ``spans``, ``shading``, ``html``,
``terminal`` and ``slider`` show them."""
