"""`refseg train --plan`: what a run needs before it starts."""
