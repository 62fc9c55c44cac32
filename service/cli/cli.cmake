# Everything of quantctl but main, so that tests run it in their own process.
add_library(qs_cli STATIC
  cli/argument_groups.cc
  cli/arguments.cc
  cli/calibrate_command.cc
  cli/calibration_command.cc
  cli/calibration_charts.cc
  cli/channel.cc
  cli/compare_command.cc
  cli/compare_html.cc
  cli/compare_report.cc
  cli/config_arguments.cc
  cli/config_file.cc
  cli/connection_hint.cc
  cli/exit_code.cc
  cli/html_charts.cc
  cli/html_page.cc
  cli/html_report.cc
  cli/html_tables.cc
  cli/info_commands.cc
  cli/job_arguments.cc
  cli/job_text.cc
  cli/job_watch.cc
  cli/jobs_command.cc
  cli/method_options.cc
  cli/moments_sender.cc
  cli/output_place.cc
  cli/output_staging.cc
  cli/plan_client.cc
  cli/progress.cc
  cli/proto_json.cc
  cli/quantize_command.cc
  cli/report_json.cc
  cli/report_table.cc
  cli/result_fetch.cc
  cli/result_folder.cc
  cli/run_control.cc
  cli/run_report.cc
  cli/signal_watcher.cc
  cli/solver_text.cc
  cli/stream_client.cc
  cli/stream_receiver.cc
  cli/stream_sender.cc
  cli/svg.cc
  cli/tensor_charts.cc
  cli/tensor_sink.cc
  cli/tensor_uploader.cc
  cli/text_output.cc
  cli/text_table.cc
  cli/totals_text.cc
  cli/upload_command.cc
  cli/work_board.cc)
target_link_libraries(qs_cli
  PUBLIC qs_options qs_service qs_checkpoint
  PRIVATE nlohmann_json::nlohmann_json)

add_executable(quantctl cli/main.cc)
target_link_libraries(quantctl PRIVATE qs_cli)
install(TARGETS quantctl RUNTIME DESTINATION bin)
