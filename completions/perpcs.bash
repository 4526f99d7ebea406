# Completion of perpcs in bash: eval "$(perpcs completion bash)".
_perpcs() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case "$line" in
            :file) compopt -o default 2>/dev/null ;;
            :directory) compopt -o dirnames 2>/dev/null ;;
            :more) compopt -o nospace 2>/dev/null ;;
            *) COMPREPLY+=("${line%%$'\t'*}") ;;
        esac
    done < <(_PERPCS_COMPLETE=1 "$1" "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _perpcs perpcs
