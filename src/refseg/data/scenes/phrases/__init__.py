"""How phrases about a scene are made, one file for each kind of phrase."""
