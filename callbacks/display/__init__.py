"""What people see while they wait: terminal and notebook."""
