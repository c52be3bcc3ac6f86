"""Train and score graders of diabetic retinopathy on fundus photographs.

Plain functions on arrays, tables and paths. Nothing here knows of Snakemake: the rules in ``workflow/rules`` call the
scripts in ``workflow/scripts``, and each script calls one function of this library.
"""
