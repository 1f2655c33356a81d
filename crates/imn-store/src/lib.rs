//! Catalog and results: two seams and their backends.
