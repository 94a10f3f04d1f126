"""Reports on sweeps: tables, plots, a page and a recommendation from folders of runs; nothing here trains."""
