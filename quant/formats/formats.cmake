target_sources(qs_quant PRIVATE
  formats/bitsandbytes.cc
  formats/bitsandbytes_decode.cc
  formats/checkpoint.cc
  formats/checkpoint_files.cc
  formats/checkpoint_index.cc
  formats/compressed_tensors.cc
  formats/json.cc
  formats/posix_file.cc
  formats/python_repr.cc
  formats/safetensors_file.cc
  formats/safetensors_header.cc
  formats/safetensors_writer.cc
  formats/stored_tensors.cc)
