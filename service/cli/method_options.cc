// Tested by tests/cli/arguments_test.cc.
#include "service/cli/method_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

struct Option {
  const char* flag;                // without the dashes
  const char* field;               // of the methods' configs
  const char* help;                // the methods are put before it
  bool of_grid = true;             // what is stored, not how hard to solve
  const char* off_flag = nullptr;  // of a bool; "": there is none
};

constexpr Option kOptions[] = {
    {"bits", "bits", "of a code [4]"},
    {"group-size", "group_size",
     "weights that share one scale; -1, but not for hqq, is a row [128; hqq "
     "64]"},
    {"symmetric", "symmetric",
     "codes around zero [yes; awq in its own format no]", true, "asymmetric"},
    {"blocksize", "block_size",
     "weights that share one absmax, 32 to 4096 [64]"},
    {"double-quant", "double_quant", "absmax in 8 bits", true, ""},
    {"codebook", "codebook", "[nf4]"},
    {"rule", "rule", "whose rounding reference follows [cuda]"},
    {"order", "order",
     "of the columns [act-order-static; with reference group-aware]", false},
    {"damping", "damping",
     "of the mean diagonal [0.001; with reference 0.05; awq 0.01]", false},
    {"range-search", "range_search", "[curvature; with reference min-max]",
     false},
    {"range-norm", "range_norm", "of mse [2.4]", false},
    {"sweeps", "sweeps", "of coordinate descent [4; with reference 0]", false},
    {"scale-refit", "scale_refit", "between sweeps [yes; with reference no]",
     false, "no-scale-refit"},
    {"awq-scaling", "awq_scaling",
     "scale active inputs up first, as awq does [yes; with reference no]",
     false, "no-awq-scaling"},
    {"grid", "grid", "scale ratios tried [20]", false},
    {"duo", "duo_scaling", "weights enter the scales [yes]", false, "no-duo"},
    {"clip", "clip", "search smaller ranges [yes]", false, "no-clip"},
    {"max-scale-ratio", "max_scale_ratio",
     "cap on largest / smallest scale, 0: none [1e4; with reference 0]", false},
    {"solve-codes", "solve_codes",
     "as gptq does, in awq's grid [yes; with reference no]", false,
     "no-solve-codes"},
    {"axis", "axis", "1: along a row; 0, in format hqq only, along a column"},
    {"iterations", "iterations", "at most [20]", false},
};

const Descriptor* ConfigOf(const std::string& method) {
  return v1::QuantizationConfig::descriptor()
      ->FindFieldByName(method)
      ->message_type();
}

std::vector<std::string> MethodsWith(const char* field) {
  std::vector<std::string> methods;
  for (const std::string& method : MethodNames()) {
    if (ConfigOf(method)->FindFieldByName(field) != nullptr) {
      methods.push_back(method);
    }
  }
  return methods;
}

// Of the first method that has it; all agree.
const FieldDescriptor* FieldOf(const Option& option) {
  return ConfigOf(MethodsWith(option.field).front())
      ->FindFieldByName(option.field);
}

std::vector<std::string> WordsOf(const EnumDescriptor* type) {
  std::vector<std::string> words;
  for (int i = 1; i < type->value_count(); ++i) {  // 0: unspecified
    words.push_back(WordOf(type->value(i)->name()));
  }
  return words;
}

std::string HelpOf(const Option& option) {
  std::string help =
      absl::StrCat(absl::StrJoin(MethodsWith(option.field), ", "), ": ");
  const FieldDescriptor* field = FieldOf(option);
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    absl::StrAppend(&help, absl::StrJoin(WordsOf(field->enum_type()), ", "),
                    " ");
  }
  return help + option.help;
}

std::string FlagOf(const Option& option) {
  return absl::StrCat("--", option.flag);
}

void AddBool(CLI::App* app, const Option& option, MethodOptions* options,
             const std::string& group) {
  CLI::Option* on = app->add_flag_callback(
      FlagOf(option), [=] { (*options)[option.field] = true; }, HelpOf(option));
  on->disable_flag_override()->group(group);
  const std::string off = option.off_flag == nullptr ? "" : option.off_flag;
  if (off.empty()) return;
  app->add_flag_callback(
         "--" + off, [=] { (*options)[option.field] = false; }, "the opposite")
      ->disable_flag_override()
      ->excludes(on)
      ->group(group);
}

void AddOption(CLI::App* app, const Option& option, MethodOptions* options,
               const std::string& group) {
  const FieldDescriptor* field = FieldOf(option);
  const std::string key = option.field;
  CLI::Option* added = nullptr;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return AddBool(app, option, options, group);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      added = app->add_option_function<double>(
          FlagOf(option), [=](double v) { (*options)[key] = v; },
          HelpOf(option));
      break;
    case FieldDescriptor::CPPTYPE_ENUM: {
      CLI::Validator check = CLI::IsMember(WordsOf(field->enum_type()));
      added = app->add_option_function<std::string>(
          FlagOf(option), [=](const std::string& v) { (*options)[key] = v; },
          HelpOf(option));
      added->check(check.description(""))->type_name("NAME");
      added->group(group);
      return;
    }
    case FieldDescriptor::CPPTYPE_INT32:
      added = app->add_option_function<int32_t>(
          FlagOf(option), [=](int32_t v) { (*options)[key] = int64_t{v}; },
          HelpOf(option));
      break;
    default:
      added = app->add_option_function<int64_t>(
          FlagOf(option), [=](int64_t v) { (*options)[key] = v; },
          HelpOf(option));
      break;
  }
  added->type_name("N")->group(group);
}

Message* MethodConfig(v1::QuantizationConfig* config) {
  const std::string method = MethodName(*config);
  if (method.empty()) return nullptr;
  return config->GetReflection()->MutableMessage(
      config, config->GetDescriptor()->FindFieldByName(method));
}

void SetWord(const std::string& word, const FieldDescriptor* field,
             Message* message) {
  const EnumDescriptor* type = field->enum_type();
  for (int i = 0; i < type->value_count(); ++i) {
    const EnumValueDescriptor* value = type->value(i);
    if (WordOf(value->name()) == word) {
      message->GetReflection()->SetEnum(message, field, value);
    }
  }
}

void SetValue(const OptionValue& value, const FieldDescriptor* field,
              Message* m) {
  const auto* reflection = m->GetReflection();
  if (const auto* word = std::get_if<std::string>(&value)) {
    SetWord(*word, field, m);
  } else if (const auto* flag = std::get_if<bool>(&value)) {
    reflection->SetBool(m, field, *flag);
  } else if (const auto* figure = std::get_if<double>(&value)) {
    reflection->SetDouble(m, field, *figure);
  } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
    reflection->SetInt32(m, field,
                         static_cast<int32_t>(std::get<int64_t>(value)));
  } else {
    reflection->SetInt64(m, field, std::get<int64_t>(value));
  }
}

}  // namespace

std::string WordOf(const std::string& enum_name) {
  std::string word = absl::AsciiStrToLower(enum_name);
  std::replace(word.begin(), word.end(), '_', '-');
  return word;
}

const std::vector<std::string>& MethodNames() {
  static const auto* names = [] {
    auto* made = new std::vector<std::string>;
    const auto* oneof =
        v1::QuantizationConfig::descriptor()->FindOneofByName("method");
    for (int i = 0; i < oneof->field_count(); ++i) {
      made->push_back(oneof->field(i)->name());
    }
    return made;
  }();
  return *names;
}

std::string MethodName(const v1::QuantizationConfig& config) {
  const auto* field = config.GetReflection()->GetOneofFieldDescriptor(
      config, config.GetDescriptor()->FindOneofByName("method"));
  return field == nullptr ? "" : field->name();
}

void SelectMethod(const std::string& method, v1::QuantizationConfig* config) {
  config->GetReflection()->MutableMessage(
      config, config->GetDescriptor()->FindFieldByName(method));
}

void AddMethodOptions(CLI::App* app, MethodOptions* options,
                      const std::string& group) {
  for (const Option& option : kOptions) AddOption(app, option, options, group);
}

absl::Status CheckMethodOptions(const MethodOptions& options,
                                const std::string& method) {
  for (const Option& option : kOptions) {
    if (!options.contains(option.field)) continue;
    const std::vector<std::string> methods = MethodsWith(option.field);
    if (std::find(methods.begin(), methods.end(), method) != methods.end()) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat(FlagOf(option), ": got it with method ", method,
                     ", allowed with ", absl::StrJoin(methods, ", ")));
  }
  return absl::OkStatus();
}

void SetMethodOptions(const MethodOptions& options,
                      v1::QuantizationConfig* config) {
  Message* const message = MethodConfig(config);
  for (const auto& [name, value] : options) {
    SetValue(value, message->GetDescriptor()->FindFieldByName(name), message);
  }
}

void KeepGrid(v1::QuantizationConfig* config) {
  Message* const message = MethodConfig(config);
  if (message == nullptr) return;
  for (const Option& option : kOptions) {
    const auto* field = message->GetDescriptor()->FindFieldByName(option.field);
    if (field == nullptr || option.of_grid) continue;
    message->GetReflection()->ClearField(message, field);
  }
}

}  // namespace qs::cli
