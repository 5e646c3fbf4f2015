"""Elastic averaging (Zhang, Choromanska, LeCun 2015): its theory."""
