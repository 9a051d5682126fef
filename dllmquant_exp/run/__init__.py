"""One job, a sweep of jobs, and the plan of one."""
