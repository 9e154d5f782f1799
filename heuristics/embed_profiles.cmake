# cmake -DOUTPUT=<file.cpp> -DPROFILES=<a.toml|b.toml> -P embed_profiles.cmake
# Writes the profiles as raw string literals (pieces below the standard's limit
# for one literal, which compilers join again).
string(REPLACE "|" ";" PROFILES "${PROFILES}")
set(entries "")
foreach(file IN LISTS PROFILES)
  get_filename_component(name "${file}" NAME)
  file(READ "${file}" text)
  string(LENGTH "${text}" length)
  set(literal "")
  set(at 0)
  while(at LESS length)
    string(SUBSTRING "${text}" ${at} 8000 piece)
    string(APPEND literal "R\"__toml__(${piece})__toml__\"\n")
    math(EXPR at "${at} + 8000")
  endwhile()
  string(APPEND entries "    {\"${name}\",\n${literal}},\n")
endforeach()
file(WRITE "${OUTPUT}" "#include \"heuristics/profile_data.h\"

namespace kvshim::heuristics {
const EmbeddedProfile kEmbeddedProfiles[] = {
${entries}    {nullptr, nullptr},
};
}  // namespace kvshim::heuristics
")
