// Tested by tests/cli/report_test.cc.
#include "service/cli/proto_json.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs::cli {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

Json Figure(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

// Element `i` of a repeated field, or the field when i < 0.
Json ValueToJson(const Message& m, const FieldDescriptor* f, int i) {
  const Reflection& r = *m.GetReflection();
  const bool one = i < 0;
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? r.GetInt32(m, f) : r.GetRepeatedInt32(m, f, i);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? r.GetInt64(m, f) : r.GetRepeatedInt64(m, f, i);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Figure(one ? r.GetDouble(m, f) : r.GetRepeatedDouble(m, f, i));
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? r.GetBool(m, f) : r.GetRepeatedBool(m, f, i);
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? r.GetString(m, f) : r.GetRepeatedString(m, f, i);
    case FieldDescriptor::CPPTYPE_ENUM:
      return (one ? r.GetEnum(m, f) : r.GetRepeatedEnum(m, f, i))->name();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageToJson(one ? r.GetMessage(m, f)
                               : r.GetRepeatedMessage(m, f, i));
    default:
      return nullptr;  // no report or plan has such a field
  }
}

absl::Status Wrong(const std::string& where, const Json& got,
                   const std::string& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": got ", JsonForError(got), ", allowed ", allowed));
}

absl::Status SetNumber(const Json& json, const std::string& where,
                       const FieldDescriptor* f, Message* m) {
  const Reflection& r = *m->GetReflection();
  const bool many = f->is_repeated();
  if (f->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    if (!json.is_number()) return Wrong(where, json, "a number");
    const double value = json.get<double>();
    many ? r.AddDouble(m, f, value) : r.SetDouble(m, f, value);
    return absl::OkStatus();
  }
  if (!json.is_number_integer()) return Wrong(where, json, "an integer");
  const int64_t value = json.get<int64_t>();
  if (f->cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
    many ? r.AddInt64(m, f, value) : r.SetInt64(m, f, value);
    return absl::OkStatus();
  }
  const int32_t small = static_cast<int32_t>(value);
  if (small != value) return Wrong(where, json, "32 bits");
  many ? r.AddInt32(m, f, small) : r.SetInt32(m, f, small);
  return absl::OkStatus();
}

absl::Status SetWord(const Json& json, const std::string& where,
                     const FieldDescriptor* f, Message* m) {
  const Reflection& r = *m->GetReflection();
  const bool many = f->is_repeated();
  if (!json.is_string()) return Wrong(where, json, "a string");
  const std::string text = json.get<std::string>();
  if (f->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    many ? r.AddString(m, f, text) : r.SetString(m, f, text);
    return absl::OkStatus();
  }
  const EnumValueDescriptor* value = f->enum_type()->FindValueByName(text);
  if (value == nullptr) {
    return Wrong(where, json, "a name of " + f->enum_type()->name());
  }
  many ? r.AddEnum(m, f, value) : r.SetEnum(m, f, value);
  return absl::OkStatus();
}

absl::Status SetValue(const Json& json, const std::string& where,
                      const FieldDescriptor* f, Message* m) {
  const Reflection& r = *m->GetReflection();
  const bool many = f->is_repeated();
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return SetNumber(json, where, f, m);
    case FieldDescriptor::CPPTYPE_STRING:
    case FieldDescriptor::CPPTYPE_ENUM:
      return SetWord(json, where, f, m);
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!json.is_boolean()) return Wrong(where, json, "true or false");
      many ? r.AddBool(m, f, json.get<bool>())
           : r.SetBool(m, f, json.get<bool>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageFromJson(
          json, where, many ? r.AddMessage(m, f) : r.MutableMessage(m, f));
    default:
      return Wrong(where, json, "nothing");
  }
}

absl::Status SetField(const Json& json, const std::string& where,
                      const FieldDescriptor* f, Message* m) {
  if (json.is_null()) {
    if (f->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE && !f->is_repeated()) {
      m->GetReflection()->SetDouble(m, f,
                                    std::numeric_limits<double>::infinity());
    }
    return absl::OkStatus();
  }
  if (!f->is_repeated()) return SetValue(json, where, f, m);
  if (!json.is_array()) return Wrong(where, json, "an array");
  for (size_t i = 0; i < json.size(); ++i) {
    QS_RETURN_IF_ERROR(
        SetValue(json[i], absl::StrCat(where, "[", i, "]"), f, m));
  }
  return absl::OkStatus();
}

}  // namespace

Json MessageToJson(const Message& message) {
  Json json = Json::object();
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->is_repeated()) {
      Json& array = json[field->name()] = Json::array();
      for (int j = 0; j < reflection.FieldSize(message, field); ++j) {
        array.push_back(ValueToJson(message, field, j));
      }
    } else if (!field->has_presence() || reflection.HasField(message, field)) {
      json[field->name()] = ValueToJson(message, field, -1);
    }
  }
  return json;
}

absl::Status MessageFromJson(const Json& json, const std::string& where,
                             Message* message) {
  if (!json.is_object()) return Wrong(where, json, "an object");
  for (int i = 0; i < message->GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->field(i);
    const auto found = json.find(field->name());
    if (found == json.end()) continue;
    QS_RETURN_IF_ERROR(SetField(*found, absl::StrCat(where, ".", field->name()),
                                field, message));
  }
  return absl::OkStatus();
}

}  // namespace qs::cli
