"""The painter behind the synthetic `streets`: canvas, things, layout, weather, development."""
