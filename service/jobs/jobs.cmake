target_sources(qs_service PRIVATE
  jobs/job.cc
  jobs/job_creator.cc
  jobs/job_hub.cc
  jobs/job_messages.cc
  jobs/job_metrics.cc
  jobs/job_output.cc
  jobs/job_pace.cc
  jobs/job_request.cc
  jobs/job_scheduler.cc
  jobs/job_server.cc
  jobs/job_service.cc
  jobs/job_summary.cc
  jobs/live_job.cc
  jobs/watch_call.cc)
