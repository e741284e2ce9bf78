"""The Lightning side: the module, its loaders, the run. Names no single mixing method."""
