target_sources(qs_quant PRIVATE
  calibration/calibration_file.cc
  calibration/calibration_index.cc
  calibration/calibration_inspect.cc
  calibration/calibration_source.cc
  calibration/calibration_writer.cc
  calibration/site_moments.cc)
