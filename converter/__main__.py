"""``python -m converter``: the converter without the service."""

from converter.cli import main

raise SystemExit(main())
