"""The pass over decoder layers that measures everything a method asks for."""
