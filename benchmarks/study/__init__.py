"""The effect of MoEx on accuracy: trainings, evaluations, reports."""
