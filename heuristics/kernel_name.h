// A kernel's demangled name taken apart: template arguments and parameter
// types as text. Enough of C++'s grammar to split at the right commas; what
// can't be taken apart gives no parameters, and the caller stays conservative.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvshim::heuristics {

struct KernelName {
  std::string mangled;
  /// Demangled name with template arguments, without return type and
  /// parameters; the mangled name when it can't be demangled.
  std::string name;
  /// The whole demangled text; the mangled name when it can't be demangled.
  std::string text;
  std::vector<std::string> template_arguments;
  /// Parameter types; nothing when the name carries none (extern "C", Triton).
  std::optional<std::vector<std::string>> parameters;
};

/// Never fails: an unmangled name comes back with text and name equal to it.
KernelName parse_kernel_name(std::string_view mangled);

/// The arguments of the type's last template list ("a::B<x, y<z> >" -> x, y<z>).
std::vector<std::string> template_arguments_of(std::string_view type);

/// Follows a path of argument indices ("1.0": the second argument's first);
/// an empty path is the type itself. Empty when it leads nowhere.
std::string template_argument_at(const std::vector<std::string>& arguments, std::string_view path);

/// The first instance of the template `name` anywhere inside `text` ("Foo<a, b>"
/// of "x::Bar<y::Foo<a, b> >"), or empty.
std::string_view find_template_instance(std::string_view text, std::string_view name);

bool is_pointer_type(std::string_view type);
/// "float" of "float const*"; empty when it is no pointer.
std::string pointee_type(std::string_view type);
/// "T const*" and "T const* const": what is pointed to is const.
bool points_to_const(std::string_view type);
/// Size of a builtin type or a well-known number type (half, bfloat16, fp8)
/// in bytes; nothing for other types.
std::optional<std::size_t> known_type_size(std::string_view type);

}  // namespace kvshim::heuristics
