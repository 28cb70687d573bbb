"""VLT: a vision-language transformer whose queries are generated from picture and phrase."""
