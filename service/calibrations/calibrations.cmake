target_sources(qs_service PRIVATE
  calibrations/activations_call.cc
  calibrations/calibration_errors.cc
  calibrations/calibration_messages.cc
  calibrations/calibration_server.cc
  calibrations/calibration_service.cc
  calibrations/moments_call.cc
  calibrations/read_site_call.cc
  calibrations/seal_call.cc
  calibrations/shard_writers.cc)
