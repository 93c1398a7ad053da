"""The dashboard: pages over a study; views only, all numbers come from rank_lab."""
