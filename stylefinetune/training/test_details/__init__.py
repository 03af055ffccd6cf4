"""What the dashboards show of a test besides its accuracy and loss."""
