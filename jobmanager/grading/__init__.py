"""Problems answered in process, the result file, and how they are merged."""
