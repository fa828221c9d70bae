"""What MoEx does to accuracy: trainings, evaluations, reports."""
