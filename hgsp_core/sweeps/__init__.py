"""`hgsp sweep`: many runs of one recipe over a grid of settings; `hgsp_core.engine.run` is the other sweep, over layers.

Grid file -> Grid of cells (one recipe each) -> groups that share measurements -> runs, in processes or on Ray -> comparison
"""
